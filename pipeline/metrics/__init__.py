"""Every metric of every process: one module per process, each with a registry of its own, and how they are served."""
