"""The steps of XFT: one module for each workflow rule. The library is the package `xft`."""
