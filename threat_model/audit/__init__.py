"""Empirical audits: lower bounds on epsilon, measured on the code that makes the noise. They never prove."""
