#define _GNU_SOURCE
#include <stdarg.h>
#include <errno.h>
/* Takes the place of glibc's: the kernel does not know that tiles are on. */
long syscall(long n, ...)
{
	va_list v; long a[6]; va_start(v, n); for (int i = 0; i < 6; i++) a[i] = va_arg(v, long); va_end(v);
	if (n == 158 && a[0] == 0x1023) return 0;
	register long r10 asm("r10") = a[3]; register long r8 asm("r8") = a[4]; register long r9 asm("r9") = a[5];
	long r; asm volatile("syscall" : "=a"(r) : "a"(n), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
	if (r < 0 && r > -4096) { errno = -r; return -1; }
	return r;
}
