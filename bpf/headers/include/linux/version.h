/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/* Our oldest kernel. It ends up in the "version" section, which kernels
 * since 5.0 no longer look at, and in BCC's own old-kernel switches. */
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#define LINUX_VERSION_CODE KERNEL_VERSION(5, 14, 0)
