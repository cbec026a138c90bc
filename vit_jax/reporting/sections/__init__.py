"""The sections of a report: each is a pure function from what it shows to markup."""
