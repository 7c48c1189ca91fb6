"""WHAT A PERSON ASKS at a terminal, one file a verb. No torch until a verb needs it."""
