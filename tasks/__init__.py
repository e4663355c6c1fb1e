"""Built-in tasks, one file each; `base` is the contract a third-party task fulfils."""
