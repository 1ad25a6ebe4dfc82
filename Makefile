.PHONY: docs export figures test

docs:    ## the site, in _docs/html; a warning is an error
	python -c "from qebias.site import build_site; print(build_site())"

export:  ## the package and the README from the notebooks
	nbdev_clean
	nbdev_export
	python -c "from qebias.readme import write_readme; write_readme()"

figures: ## the study's figures as PNG, SVG and PDF, in _docs/figures, from the published tables
	for name in nbs/study/[0-9]*.ipynb; do \
	  QEBIAS_FIGURES=$(CURDIR)/_docs/figures/$$(basename $$name .ipynb) \
	  jupyter nbconvert --to notebook --execute --allow-errors --output-dir _docs/figures $$name; done

test:
	pytest
