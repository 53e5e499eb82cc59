int base(void) { return 42; }
