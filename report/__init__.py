"""The paper's whole evaluation on the user's own graph: what is computed, drawn and written."""
