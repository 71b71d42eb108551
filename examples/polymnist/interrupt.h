/* SPDX-License-Identifier: Apache-2.0 */
#ifndef POLYMNIST_INTERRUPT_H
#define POLYMNIST_INTERRUPT_H

/* From here on the first SIGINT (Ctrl-C) or SIGTERM is only noted; a second one ends the program at once. */
void interrupt_catch(void);
/* The number of the signal that came, or 0. */
int interrupt_came(void);

#endif
