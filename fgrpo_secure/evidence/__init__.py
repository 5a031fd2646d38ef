"""Evidence for somebody who was not there and trusts nobody: witnessed ledgers, statements, their verification."""
