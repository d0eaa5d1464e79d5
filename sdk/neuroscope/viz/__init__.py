"""Tables (rich), pictures (matplotlib) and pages (HTML) of values; see `neuroscope.display`."""
