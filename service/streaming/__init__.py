"""Event streams to windows, windows to masks: sessions, their state, and the computation behind them."""
