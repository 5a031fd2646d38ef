"""Training by an owner's own means: a Python function of its own, or TRL's trainer, in a process of its own.

    owner ---- rows, adapter as received, public settings ----> worker: base model + adapter, the owner's function
          <--- what became of the round's factors, rewards ----         changes the adapter in place

What comes back is an update like any other: checked, clipped, noised, masked. Only where a client as a whole is the
unit, or nothing is: below that each unit's gradient is needed by itself, and a trainer returns one update of them all.
"""
