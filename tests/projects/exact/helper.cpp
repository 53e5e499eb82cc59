#include "dated.h"

// assert() and others embed __FILE__; the folder that a file is compiled in may not show.
const char* built() { return __FILE__ " " __DATE__ " " __TIME__ " " CONFIGURED; }
