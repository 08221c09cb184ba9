"""`fusevol log`: one file for each of its commands, and how they show records."""
