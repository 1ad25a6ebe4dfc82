"How Sphinx shows the site; `qebias.site` stages what it reads"

from pathlib import Path

project = "qebias"
author = "The qebias maintainers"
copyright = "2026 onwards, " + author
extensions = ["myst_nb", "sphinx_copybutton"]
root_doc = "index"

# Notebooks are shown with the outputs that are committed; nothing runs here.
nb_execution_mode = "off"
nb_merge_streams = True
nb_output_stderr = "remove"  # progress bars and warnings of one machine
nb_render_markdown_format = "gfm"  # tables in outputs
nb_code_prompt_show, nb_code_prompt_hide = "Code", "Code"
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence"]
myst_heading_anchors = 4
suppress_warnings = ["mystnb.unknown_mime_type", "myst.header", "misc.highlighting_failure"]

html_theme = "sphinx_book_theme"
html_title = "qebias"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["triangle.js", "compare.js", "phone.js"]
html_show_sourcelink = False
html_context = {"default_mode": "auto"}  # light or dark, as the reader's machine has it
html_theme_options = {
    "home_page_in_toc": True,
    "navbar_persistent": [],  # a header of its own would take the menu's button away from the phone
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "repository_url": "https://github.com/qebias/qebias",
    "repository_branch": "main",
    "path_to_docs": "nbs",
    "use_source_button": True,
    "use_issues_button": True,
    "use_download_button": True,
    "launch_buttons": {
        "binderhub_url": "https://mybinder.org",
        "colab_url": "https://colab.research.google.com",
    },
}

# Formulas without a network, where the wheel with MathJax is installed (`pip install -e ".[docs]"`).
made = Path(__file__).resolve().parent.parent / "_docs" / "static"
if made.is_dir():
    html_static_path.append(str(made))
if (made / "tex-svg.js").is_file():
    mathjax_path = "tex-svg.js"
