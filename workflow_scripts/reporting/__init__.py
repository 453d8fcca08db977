"""Tables and texts for people: the summary, model cards."""
