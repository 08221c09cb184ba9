"""The chain over a log's records: whoever changes, removes or inserts one is found out.

links     what a record's `hash` is made of
keys      the secret of this host, and the keys that are made of it
ledger    what is kept beside the key: the newest checkpoint, what was removed on purpose
sealer    the writer's side: gives each record its hash, signs checkpoints
verifier  the reader's side: finds the first record that is not as it was written
"""
