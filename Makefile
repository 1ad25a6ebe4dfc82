.PHONY: docs export test

docs:    ## the site, in _docs/html; a warning is an error
	python -c "from qebias.site import build_site; print(build_site())"

export:  ## the package and the README from the notebooks
	nbdev_clean
	nbdev_export
	python -c "from qebias.readme import write_readme; write_readme()"

test:
	pytest
