"""Path patching: what one component writes is replaced for some readers alone, and nothing else between them changes.

`grid` says which senders and receivers its cells are, `plan` makes the edits of one cell: the receivers' inputs are the
unedited ones and what the sender's other output adds to the stream, so no forward pass is frozen. `writing` follows a
sender's output into the stream, and `proof` shows by a probe whether a model writes and reads as that assumes.
"""
