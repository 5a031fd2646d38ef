"""One module per family of attacks, each with its `ATTACKS`; `threat_model.registry` lists them all."""
