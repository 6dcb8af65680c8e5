/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/* BCC includes this first; its own prelude looks for no other option. */
#define CONFIG_BPF_SYSCALL 1
