"""Does a better influence score unlearn better? See README.md in this folder."""
