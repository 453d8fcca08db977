"""Tools that users call by hand: `xft plan`, `xft verify` and others."""
