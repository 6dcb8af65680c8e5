/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/* For BCC's BPF_RINGBUF_OUTPUT. */
#define PAGE_SIZE 4096
