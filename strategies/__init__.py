"""Built-in decoding strategies, one file each; `base` is the contract, `rules` the idioms."""
