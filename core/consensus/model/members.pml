/* Membership change: one node at a time, by entries of the log, and leader change in the midst of it.
 *
 * The log is one entry after another, each a set of voters; entry s governs what comes behind it, and FOUNDERS what comes
 * first. A leader proposes an entry only where all before it is stable, beginning with the opening of its ballot, which
 * here is a members entry that changes nothing. Names are those of the C code (see election.pml). */

#ifndef NODES
#define NODES 4
#endif
#ifndef BALLOTS
#define BALLOTS 3
#endif
#ifndef SLOTS
#define SLOTS 3
#endif
#define FOUNDERS 7 /* of nodes 0, 1 and 2 */

#define LEADERS 2                    /* nodes that stand; any node votes */
#define owner(b) ((b - 1) % LEADERS) /* paxos_ballot_node */
#define bits(m) (((m) & 1) + (((m) >> 1) & 1) + (((m) >> 2) & 1) + (((m) >> 3) & 1))
#define has(m, n) ((m >> (n)) & 1)
#define members__quorum(voters, nodes) (bits((voters) & (nodes)) >= bits(voters) / 2 + 1)

typedef slot {
    byte ballot;
    byte members; /* the voters from the next index on; 0: nothing is held here */
    byte proposed; /* the ballot that proposed it first: two entries of one set are two values */
}
typedef replica {
    byte promised;
    byte last;
    byte match;
    byte ballot;
    slot slots[SLOTS];
}
typedef leader {
    byte role;
    byte votes;
    byte last;
    byte stable;
    byte opened;
    slot slots[SLOTS];
    byte accepted[SLOTS]; /* who has it under this ballot */
}
#define PAXOS_FOLLOWER  0
#define PAXOS_CANDIDATE 1
#define PAXOS_LEADER    2

replica self[NODES];
leader led[BALLOTS + 1];
byte chosen[SLOTS];
byte i, k, entry; /* the model's own */

/* The members that govern the end of the log; a mistake takes those that the candidate began with. */
#ifdef MISTAKE_OLD_MEMBERS
#define members__governing(m) FOUNDERS
#else
#define members__governing(m) (self[m].last == 0 -> FOUNDERS : self[m].slots[self[m].last - 1].members)
#endif
#define governs(b, s) ((s) == 0 -> FOUNDERS : led[b].slots[(s) - 1].members)

inline note_chosen(nb, ns)
{
    if
    :: ns < led[nb].last && members__quorum(governs(nb, ns), led[nb].accepted[ns]) ->
        assert(chosen[ns] == 0 || chosen[ns] == led[nb].slots[ns].proposed);
        chosen[ns] = led[nb].slots[ns].proposed
    :: else
    fi
}

inline store(aw, ab, as)
{
    led[ab].accepted[as] = led[ab].accepted[as] | (1 << aw);
    /* Chosen counts where all before it is chosen: only then do those voters govern. */
    if
    :: as == 0 || chosen[as - 1] == led[ab].slots[as - 1].proposed -> note_chosen(ab, as)
    :: else
    fi
}

inline append(pw, pb, pm)
{
    i = led[pb].last;
    led[pb].slots[i].ballot = pb;
    led[pb].slots[i].members = pm;
    led[pb].slots[i].proposed = pb;
    led[pb].last++;
    self[pw].slots[i].ballot = pb;
    self[pw].slots[i].members = pm;
    self[pw].slots[i].proposed = pb;
    self[pw].last = led[pb].last;
    self[pw].match = led[pb].last;
    entry = i;
    i = 0;
    store(pw, pb, entry);
    entry = 0
}

inline adopt(df, dt)
{
    i = 0;
    do
    :: i < self[df].last ->
        if
        :: i >= self[dt].last || self[dt].slots[i].ballot < self[df].slots[i].ballot ->
            self[dt].slots[i].ballot = self[df].slots[i].ballot;
            self[dt].slots[i].members = self[df].slots[i].members;
            self[dt].slots[i].proposed = self[df].slots[i].proposed;
            if
            :: i >= self[dt].last -> self[dt].last = i + 1
            :: else
            fi
        :: else
        fi;
        i++
    :: else -> break
    od;
    i = 0
}

inline leader__begin(lw, lb)
{
    led[lb].role = PAXOS_LEADER;
    do
    :: i < self[lw].last ->
        self[lw].slots[i].ballot = lb;
        led[lb].slots[i].ballot = lb;
        led[lb].slots[i].members = self[lw].slots[i].members;
        led[lb].slots[i].proposed = self[lw].slots[i].proposed;
        i++
    :: else -> break
    od;
    i = 0;
    led[lb].last = self[lw].last;
    led[lb].opened = self[lw].last + 1;
    self[lw].match = self[lw].last;
    k = 0;
    do
    :: k < led[lb].last ->
        store(lw, lb, k);
        k++
    :: else -> break
    od;
    k = 0
}

inline election__stand(sw, sb)
{
    self[sw].promised = sb;
    self[sw].ballot = sb;
    self[sw].match = 0;
    led[sb].role = PAXOS_CANDIDATE;
    led[sb].votes = 1 << sw;
    if
    :: members__quorum(members__governing(sw), led[sb].votes) -> leader__begin(sw, sb)
    :: else
    fi
}

inline election__promise(pf, pt, pp)
{
    self[pf].promised = pp;
    adopt(pf, pt);
    led[pp].votes = led[pp].votes | (1 << pf);
    if /* votes_suffice: to a fixpoint, for adopting may have told of other members, who are asked next */
    :: members__quorum(members__governing(pt), led[pp].votes) -> leader__begin(pt, pp)
    :: else
    fi
}

inline follower__accept(rw, rb)
{
    self[rw].promised = rb;
    if
    :: self[rw].ballot != rb ->
        self[rw].ballot = rb;
        self[rw].match = 0
    :: else
    fi;
    i = self[rw].match;
    self[rw].slots[i].ballot = rb;
    self[rw].slots[i].members = led[rb].slots[i].members;
    self[rw].slots[i].proposed = led[rb].slots[i].proposed;
    self[rw].match++;
    if
    :: self[rw].last < self[rw].match -> self[rw].last = self[rw].match
    :: else
    fi;
    entry = i;
    i = 0;
    store(rw, rb, entry);
    entry = 0
}

#ifdef MISTAKE_NOT_ALONE
#define may_change(b) true
#define alone(b) true
#else
#define may_change(b) (led[b].stable >= led[b].opened)
#define alone(b) (led[b].stable == led[b].last)
#endif

proctype node(byte a; byte b)
{
    do
    :: d_step { a == owner(b) && led[b].votes == 0 && self[a].promised < b && has(members__governing(a), a) ->
            election__stand(a, b) }
    :: d_step { a != owner(b) && led[b].role == PAXOS_CANDIDATE && self[owner(b)].promised == b &&
            self[a].promised < b && has(members__governing(owner(b)), a) -> /* whom ask_all asks */
            election__promise(a, owner(b), b) }
    :: d_step { a != owner(b) && led[b].role == PAXOS_LEADER && self[a].promised <= b &&
            (self[a].ballot != b || self[a].match < led[b].last) && led[b].last > 0 ->
            follower__accept(a, b) }
    :: d_step { a == owner(b) && led[b].role == PAXOS_LEADER && self[a].promised == b && led[b].stable < led[b].last &&
            members__quorum(governs(b, led[b].stable), led[b].accepted[led[b].stable]) ->
            led[b].stable++ /* commit */ }
    :: d_step { a == owner(b) && led[b].role == PAXOS_LEADER && self[a].promised == b && led[b].last < SLOTS &&
            led[b].last + 1 == led[b].opened && alone(b) -> /* open_with_noop */
            k = (led[b].last == 0 -> FOUNDERS : led[b].slots[led[b].last - 1].members);
            append(a, b, k);
            k = 0 }
    od
}

/* One step of the members: any node that is not among them, or is. */
proctype change(byte b; byte n)
{
    do
    :: d_step { led[b].role == PAXOS_LEADER && self[owner(b)].promised == b && led[b].last < SLOTS && may_change(b) &&
            alone(b) && ((led[b].last == 0 -> FOUNDERS : led[b].slots[led[b].last - 1].members) ^ (1 << n)) != 0 ->
            k = (led[b].last == 0 -> FOUNDERS : led[b].slots[led[b].last - 1].members) ^ (1 << n);
            append(owner(b), b, k);
            k = 0 }
    od
}

init
{
    atomic {
        i = 0;
        do
        :: i < NODES * BALLOTS ->
            run node(i % NODES, 1 + i / NODES);
            i++
        :: else -> break
        od;
        k = 1;
        do
        :: k <= BALLOTS ->
            i = 0;
            do
            :: i < NODES ->
                run change(k, i);
                i++
            :: else -> break
            od;
            k++
        :: else -> break
        od;
        i = 0;
        k = 0
    }
}
