/* SPDX-License-Identifier: Apache-2.0
 *
 * Ctrl-C: the program looks here between two steps and ends in its own time.
 */
#include "interrupt.h"

#include <signal.h>
#include <string.h>

static volatile sig_atomic_t signal_that_came;

static void take_note(int number)
{
    signal_that_came = number;
}

void interrupt_catch(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = take_note;
    action.sa_flags = (int)SA_RESETHAND; /* the second signal does what it always does */
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

int interrupt_came(void)
{
    return signal_that_came;
}
