"""Packaged weights with their cards; loading, saving, conversion."""
