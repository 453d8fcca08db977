"""Commands for people: `xft plan`, `xft verify` and others."""
