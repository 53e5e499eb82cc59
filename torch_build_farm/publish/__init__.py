"""From work/dist to a package index: what is built and proven, in an order that never leaves users with half of it.

| step | modules |
|---|---|
| which variants exist, built here and on the index | inventory |
| whose a file on the index is | names, published_list |
| what is uploaded, read once | private_copies |
| what is to be uploaded, and in which order | upload_plan, with its answers in publication |
| what a release has no wheels for | served_platforms |
| twine, with retries | upload |
| what users then get from the index | install_check |
"""
