"""What the loaders of Python applications have in common; docs/protocols.md, section 4, is the contract."""
