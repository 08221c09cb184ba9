"""Measures fusevol beside the host directory itself, bindfs and LoggedFS. See README.md here."""
