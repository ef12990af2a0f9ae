"""Files of users are read by checkers; what runs of them is run by name."""

collect_ignore_glob = ['users/*']
