// What of C's library a module can have: it has no system below it. See ../library.c.
#ifndef INSTAR_STDLIB_H
#define INSTAR_STDLIB_H

#include <stddef.h>

void *malloc(size_t size);
void *calloc(size_t count, size_t size);
void *realloc(void *allocated, size_t size);
void free(void *allocated);
_Noreturn void abort(void);

#endif
