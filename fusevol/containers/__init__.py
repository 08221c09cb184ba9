"""Which containers there are: those of `fusevol run` as kept on disk, and those of engines.

Finding, naming, freezing and removing them; neither running them nor putting volumes into them.
"""
