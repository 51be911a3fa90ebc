"""The Faust shell around the core: chunks in, epochs and checkpoints out."""
