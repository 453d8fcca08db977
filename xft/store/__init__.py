"""The store: every artifact lies in a folder that is named by the digest of its recipe."""
