"""Networks, each described by one small frozen config that is stored with its weights."""
