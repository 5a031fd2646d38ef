"""The server as a party: it opens rounds, adds up masked uploads and applies their mean."""
