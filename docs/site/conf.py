"How Sphinx makes the site; docs/tools/site.py calls it."

project, author, copyright = "cmr", "The cmr authors", "The cmr authors"
extensions = ["myst_nb", "sphinx.ext.mathjax"]
exclude_patterns = ["_beside"]
html_theme, html_title = "furo", "cmr: image-text retrieval"
html_static_path, html_css_files = ["site.css"], ["site.css"]
html_show_search_summary = False   # it reads the other pages with requests, which a page opened from disk may not do
html_copy_source = html_show_sourcelink = False
pygments_style, pygments_dark_style = "friendly", "github-dark"

nb_execution_mode, nb_merge_streams = "off", True       # the outputs that are committed
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors, myst_dmath_double_inline = 4, True
mathjax_path = "mathjax.js"                             # from a package, laid beside the pages: no network
mathjax3_config = {"svg": {"scale": .93}}                # as large as the words around it
