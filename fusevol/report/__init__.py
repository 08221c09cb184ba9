"""A report on an access log as one web page: what is counted for it, and the page itself."""
