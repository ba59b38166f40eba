"""Container images: built with or without a daemon, tagged by what goes in, with a list of all that is inside."""
