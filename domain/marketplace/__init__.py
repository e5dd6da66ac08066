"""The marketplace: offerings of devices' time, contracts over it, and what is paid for them."""
