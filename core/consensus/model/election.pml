/* Leader change: phase 1 over the whole suffix, adoption index by index, what `opened` cuts, and phase 2.
 *
 * Inlines bear the names of the C functions that they stand for, and variables those of the fields; `make model` checks that
 * the C sources have them. A value is the ballot that first proposed it, which is its time as well: a leader's times lie
 * above those of all ballots before it (ceilings; leases.pml and the simulators look at those).
 *
 * A message is what its sender's state was. A PROMISE that is not lost acts at once: until it arrives, neither what its
 * sender accepted below the ballot nor the candidate's log can change in a way that anybody sees. An ACCEPT carries some
 * first part of a leader's log, for ever. A process that ends is one that does nothing more under its ballot; what counts
 * here is durable. */

#ifndef NODES
#define NODES 3
#endif
#ifndef BALLOTS
#define BALLOTS 3
#endif
#ifndef SLOTS
#define SLOTS 2
#endif

#define CHOSEN 255 /* UINT64_MAX */
#define owner(b) ((b - 1) % NODES) /* paxos_ballot_node */

#ifdef MISTAKE_HALF
#define quorum_size (NODES / 2)
#else
#define quorum_size (NODES / 2 + 1)
#endif
#define bits(m) (((m) & 1) + (((m) >> 1) & 1) + (((m) >> 2) & 1) + (((m) >> 3) & 1))
#define suffices(m) (bits(m) >= quorum_size)

typedef slot {
    byte ballot;
    byte time;
    byte opened;
}
typedef replica {
    byte promised;
    byte ballot; /* what `match` speaks of */
    byte match;
    byte stable;
    byte last;
    slot slots[SLOTS];
}
typedef leader {
    byte role; /* of the ballot's owner under that ballot */
    byte votes;
    byte opened_seen;
    byte last;
    byte stable;
    byte opened; /* what must be stable before it reads */
    bool leading;
    slot slots[SLOTS];
    byte accepted[SLOTS]; /* who has it under this ballot, durably */
}
#define PAXOS_FOLLOWER  0
#define PAXOS_CANDIDATE 1
#define PAXOS_LEADER    2

replica self[NODES];
leader led[BALLOTS + 1];
byte chosen[SLOTS]; /* the model's own: what was ever chosen */
byte i, known, entry, time, until; /* the model's own: reset after each step */

#define max(a, b) (a > b -> a : b)

/* What was promised: nothing that was chosen changes, times rise, and none appears below what was closed. */
inline note_chosen(nb, ns)
{
    if
    :: suffices(led[nb].accepted[ns]) ->
        assert(chosen[ns] == 0 || chosen[ns] == led[nb].slots[ns].time);
        if
        :: chosen[ns] == 0 ->
            chosen[ns] = led[nb].slots[ns].time;
            known = 1;
            do
            :: known <= BALLOTS ->
                /* A leader closes time as soon as it reads: all that comes behind is later. */
                assert(!(led[known].leading && ns >= led[known].opened && chosen[ns] < known));
                known++
            :: else -> break
            od;
            assert(ns == 0 || chosen[ns - 1] == 0 || chosen[ns - 1] <= chosen[ns]);
            assert(ns + 1 >= SLOTS || chosen[ns + 1] == 0 || chosen[ns] <= chosen[ns + 1])
        :: else
        fi
    :: else
    fi;
    known = 0
}

inline store(aw, ab, as)
{
    led[ab].accepted[as] = led[ab].accepted[as] | (1 << aw);
    note_chosen(ab, as)
}

/* What this replica's stable prefix knows of ballots that opened. */
inline stable_opened(ow) /* below `until`; into `known` */
{
    known = 0;
    i = 0;
    do
    :: i < until && i < self[ow].last ->
        known = max(known, self[ow].slots[i].opened);
        i++
    :: else -> break
    od;
    i = 0;
    until = 0
}

inline adopt(df, dt, db)
{
    i = self[dt].stable;
    do
    :: i < self[df].last ->
        entry = (i < self[df].stable -> CHOSEN : self[df].slots[i].ballot);
        known = max(self[df].slots[i].opened, (i < self[dt].last -> self[dt].slots[i].opened : 0));
        if
#ifdef MISTAKE_LOWER_BALLOT
        :: i < self[dt].last && entry != CHOSEN && self[dt].slots[i].ballot <= entry ->
#else
        :: i < self[dt].last && entry != CHOSEN && self[dt].slots[i].ballot >= entry ->
#endif
            self[dt].slots[i].opened = known
        :: else ->
            self[dt].slots[i].ballot = (entry == CHOSEN -> db : entry);
            self[dt].slots[i].time = self[df].slots[i].time;
            self[dt].slots[i].opened = known;
            self[dt].last = max(self[dt].last, i + 1);
            if
            :: entry == CHOSEN ->
                self[dt].stable = i + 1;
                self[dt].match = i + 1
            :: else
            fi
        fi;
        i++
    :: else -> break
    od;
    i = 0;
    entry = 0;
    known = 0
}

inline leader__end(cw, cb)
{
    until = self[cw].stable;
    stable_opened(cw);
    known = max(known, led[cb].opened_seen);
    time = (self[cw].stable > 0 -> self[cw].slots[self[cw].stable - 1].time : 0);
    i = self[cw].stable;
    do
    :: i < self[cw].last ->
        if
        :: self[cw].slots[i].ballot < known || self[cw].slots[i].time < time -> self[cw].last = i
        :: else ->
            known = max(known, self[cw].slots[i].opened);
            time = self[cw].slots[i].time;
            i++
        fi
    :: else -> break
    od;
    i = 0;
    known = 0;
    time = 0
}

inline leader__begin(lw, lb)
{
#ifndef MISTAKE_NO_CUT
    leader__end(lw, lb);
#endif
    if
    :: self[lw].last < SLOTS ->
        led[lb].role = PAXOS_LEADER;
        i = self[lw].stable;
        do
        :: i < self[lw].last ->
            self[lw].slots[i].ballot = lb;
            i++
        :: else -> break
        od;
#ifdef MISTAKE_OPENED_BY_OLD_ENTRY
        if
        :: self[lw].last > self[lw].stable -> self[lw].slots[self[lw].last - 1].opened = lb
        :: else ->
#endif
        /* open_with_noop: an entry that nobody can have yet, so that who acknowledges it holds `opened` on disk. */
        self[lw].slots[self[lw].last].ballot = lb;
        self[lw].slots[self[lw].last].time = lb;
        self[lw].slots[self[lw].last].opened = lb;
        self[lw].last++;
#ifdef MISTAKE_OPENED_BY_OLD_ENTRY
        fi;
#endif
        led[lb].opened = self[lw].last;
        led[lb].last = self[lw].last;
        led[lb].stable = self[lw].stable;
        i = 0;
        do
        :: i < self[lw].last ->
            led[lb].slots[i].ballot = lb;
            led[lb].slots[i].time = self[lw].slots[i].time;
            led[lb].slots[i].opened = self[lw].slots[i].opened;
            i++
        :: else -> break
        od;
        i = 0;
        entry = 0;
        self[lw].match = self[lw].last;
        do
        :: entry < led[lb].last ->
            store(lw, lb, entry);
            entry++
        :: else -> break
        od;
        entry = 0
    :: else -> led[lb].role = PAXOS_FOLLOWER /* no room in this small scope */
    fi;
    i = 0
}

inline election__stand(sw, sb)
{
    self[sw].promised = sb;
    self[sw].ballot = sb;
    self[sw].match = self[sw].stable;
    led[sb].role = PAXOS_CANDIDATE;
    led[sb].votes = 1 << sw;
    until = self[sw].stable;
    stable_opened(sw);
    led[sb].opened_seen = known;
    known = 0
}

/* PREPARE at the voter and its PROMISE at the candidate. */
inline election__promise(pf, pt, pb)
{
    self[pf].promised = pb;
    /* promise() tells of what it keeps to itself: entries that the candidate knows to be chosen. */
    until = max(self[pf].stable, self[pt].stable);
    stable_opened(pf);
    led[pb].opened_seen = max(led[pb].opened_seen, known);
    known = 0;
    adopt(pf, pt, pb);
    led[pb].votes = led[pb].votes | (1 << pf);
    if
    :: suffices(led[pb].votes) -> leader__begin(pt, pb)
    :: else
    fi
}

inline follow(fw, fb)
{
    self[fw].promised = fb;
    if
    :: self[fw].ballot != fb ->
        self[fw].ballot = fb;
        self[fw].match = self[fw].stable
    :: else
    fi
}

/* One entry beyond `match`, or none; several at once are several of these. */
inline follower__accept(rw, rb)
{
    follow(rw, rb);
    if
    :: self[rw].match < led[rb].last ->
        i = self[rw].match;
        known = max(led[rb].slots[i].opened, (i < self[rw].last -> self[rw].slots[i].opened : 0));
        self[rw].slots[i].ballot = rb;
        self[rw].slots[i].time = led[rb].slots[i].time;
        self[rw].slots[i].opened = known;
        self[rw].match++;
        self[rw].last = max(self[rw].last, self[rw].match);
        known = 0;
        i = 0
    :: else
    fi;
    entry = 0;
    do
    :: entry < self[rw].match -> /* cumulative: what is chosen counts too */
        store(rw, rb, entry);
        entry++
    :: else -> break
    od;
    entry = 0
}

proctype node(byte a; byte b)
{
    do
    :: d_step { a == owner(b) && led[b].role == PAXOS_FOLLOWER && led[b].votes == 0 && self[a].promised < b ->
            election__stand(a, b) }
    :: d_step { a != owner(b) && led[b].role == PAXOS_CANDIDATE && self[owner(b)].promised == b && self[a].promised < b ->
            election__promise(a, owner(b), b) }
    :: d_step { a != owner(b) && led[b].role == PAXOS_CANDIDATE && self[a].promised < b ->
            self[a].promised = b /* and the PROMISE is lost */ }
    :: d_step { a != owner(b) && led[b].role == PAXOS_LEADER && self[a].promised <= b &&
            (self[a].ballot != b || self[a].match < led[b].last) ->
            follower__accept(a, b) }
    :: d_step { a != owner(b) && led[b].role == PAXOS_LEADER && self[a].promised == b && self[a].ballot == b &&
            self[a].stable < self[a].match && self[a].stable < led[b].stable ->
            self[a].stable++ /* paxos__stable */ }
    :: d_step { a == owner(b) && led[b].role == PAXOS_LEADER && self[a].promised == b && led[b].stable < led[b].last &&
            suffices(led[b].accepted[led[b].stable]) -> /* commit */
            led[b].stable++;
            self[a].stable = led[b].stable;
            if
            :: !led[b].leading && led[b].stable >= led[b].opened ->
                led[b].leading = true;
                i = led[b].opened;
                do
                :: i < SLOTS ->
                    assert(chosen[i] == 0 || chosen[i] >= b);
                    i++
                :: else -> break
                od;
                i = 0
            :: else
            fi }
    :: d_step { a == owner(b) && led[b].role == PAXOS_LEADER && self[a].promised == b && led[b].last < SLOTS ->
            i = led[b].last; /* leader__propose */
            led[b].slots[i].ballot = b;
            led[b].slots[i].time = b;
            led[b].slots[i].opened = b;
            self[a].slots[i].ballot = b;
            self[a].slots[i].time = b;
            self[a].slots[i].opened = b;
            led[b].last++;
            self[a].last = led[b].last;
            self[a].match = led[b].last;
            entry = i;
            i = 0;
            store(a, b, entry);
            entry = 0 }
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
        i = 0
    }
}
