"""The commands, one file each. They parse, call one function of a lower layer, and print."""
