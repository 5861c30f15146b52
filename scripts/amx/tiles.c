#include <linux/module.h>
#include <linux/kernel.h>
static int __init tiles_init(void)
{
	u32 lo, hi;
	asm volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	lo |= 3u << 17;
	asm volatile("xsetbv" :: "a"(lo), "d"(hi), "c"(0));
	pr_info("tiles on: xcr0 %x\n", lo);
	return 0;
}
module_init(tiles_init);
MODULE_LICENSE("GPL");
