/* Leases as grants: while a leader may answer reads from what it has applied, no higher ballot has a leader.
 *
 * There is no clock here. What the clocks are trusted with is an order of events: a leader's lease ends before the grant that it
 * stems from does, and a fresh process waits until every grant of its former one has ended. Everything else may come at any
 * time, late, twice or never. Names are those of the C code (see election.pml). */

#ifndef NODES
#define NODES 3
#endif
#ifndef BALLOTS
#define BALLOTS 3
#endif
#ifndef RESTARTS
#define RESTARTS 1
#endif
#define LEADERS 2                    /* nodes that stand; any node votes */
#define owner(b) ((b - 1) % LEADERS) /* paxos_ballot_node */
#define max(x, y) (x > y -> x : y)

typedef answer { /* a BEAT_ACK or an ACCEPTED on its way; it may come twice */
    bool there;
    byte defections;
    byte incarnation;
}
typedef peer { /* what a node holds of a pair: towards it as its leader, and as its voter */
    bool lease_until_ns;      /* it has not passed yet */
    byte their_defections;
    byte incarnation;
    bool granted_until_ns;    /* as voter: it has not passed yet */
    byte defections;
    answer ack;            /* of this node's latest beat, from that peer */
}
typedef replica {
    byte promised;
    byte acknowledged;
    byte incarnation;
    bool pairs_fresh;
    peer peers[NODES];
}
typedef follower {
    bool acknowledged;
    byte incarnation;
    byte defections;
    answer accepted;
}
typedef leader {
    byte role;
    byte votes;
    bool dead; /* the process that stood has ended */
    follower followers[NODES];
}
#define PAXOS_FOLLOWER  0
#define PAXOS_CANDIDATE 1
#define PAXOS_LEADER    2

replica self[NODES];
leader led[BALLOTS + 1];
byte restarts, i, k, held; /* the model's own */

#define suffices(m) ((m & 1) + ((m >> 1) & 1) + ((m >> 2) & 1) >= NODES / 2 + 1)

#define counts(b, v)                                                                                                   \
    (led[b].followers[v].acknowledged && led[b].followers[v].incarnation == self[owner(b)].peers[v].incarnation &&     \
     led[b].followers[v].defections == self[owner(b)].peers[v].their_defections)

/* The promise: whoever holds a valid lease is not behind anybody. */
inline paxos_lease_valid()
{
    i = 1;
    do
    :: i < BALLOTS ->
        if
        :: led[i].role == PAXOS_LEADER && !led[i].dead && self[owner(i)].promised == i ->
            held = 1;
            k = 0;
            do
            :: k < NODES ->
                if
                :: k != owner(i) && counts(i, k) && self[owner(i)].peers[k].lease_until_ns -> held++
                :: else
                fi;
                k++
            :: else -> break
            od;
            if
            :: held >= NODES / 2 + 1 ->
                k = i + 1;
                do
                :: k <= BALLOTS ->
                    assert(led[k].role != PAXOS_LEADER);
                    k++
                :: else -> break
                od
            :: else
            fi
        :: else
        fi;
        i++
    :: else -> break
    od;
    i = 0;
    k = 0;
    held = 0
}

#define theirs(v) owner(self[v].promised)

#if defined(MISTAKE_LEASE_FORGOTTEN)
#define lease_speaks(v) false
#elif defined(MISTAKE_FIRST_ACKNOWLEDGEMENT)
#define lease_speaks(v)                                                                                                \
    ((self[v].acknowledged != self[v].promised && self[v].pairs_fresh) ||                                              \
     (self[v].acknowledged == self[v].promised && self[v].peers[theirs(v)].granted_until_ns))
#else
#define lease_speaks(v)                                                                                                \
    (self[v].pairs_fresh || (self[v].acknowledged == self[v].promised && self[v].peers[theirs(v)].granted_until_ns))
#endif
#define protected_from(v, c)                                                                                           \
    (self[v].promised != 0 && theirs(v) != c && theirs(v) != v && !led[self[v].promised].dead && lease_speaks(v))

inline election__leave_for(ev, eb)
{
#ifndef MISTAKE_NO_DEFECTIONS
    if
    :: self[ev].promised != 0 && theirs(ev) != owner(eb) && theirs(ev) != ev ->
        self[ev].peers[theirs(ev)].defections++ /* pairs_defect */
    :: else
    fi;
#endif
    self[ev].promised = eb
}

inline elected(lb)
{
    if
    :: suffices(led[lb].votes) && self[owner(lb)].promised == lb && !led[lb].dead ->
        led[lb].role = PAXOS_LEADER /* leader__begin */
    :: else
    fi
}

/* The first word of a new process ends what its former one granted. */
inline meet(ml, mv, mi)
{
    if
    :: mi > self[ml].peers[mv].incarnation ->
        self[ml].peers[mv].incarnation = mi;
        self[ml].peers[mv].lease_until_ns = false;
        self[ml].peers[mv].their_defections = 0
    :: else
    fi
}

inline receive_ack(rl, rv)
{
    meet(rl, rv, self[rl].peers[rv].ack.incarnation);
    self[rl].peers[rv].lease_until_ns = true;
    self[rl].peers[rv].their_defections = max(self[rl].peers[rv].their_defections, self[rl].peers[rv].ack.defections)
}

inline note_acknowledgement(nb, nv)
{
    if
    :: led[nb].followers[nv].accepted.incarnation != led[nb].followers[nv].incarnation ->
        led[nb].followers[nv].defections = 0;
        led[nb].followers[nv].incarnation = led[nb].followers[nv].accepted.incarnation
    :: else
    fi;
    led[nb].followers[nv].acknowledged = true;
    led[nb].followers[nv].defections = max(led[nb].followers[nv].defections, led[nb].followers[nv].accepted.defections);
    if
    :: led[nb].followers[nv].accepted.incarnation == self[owner(nb)].peers[nv].incarnation ->
        self[owner(nb)].peers[nv].their_defections =
            max(self[owner(nb)].peers[nv].their_defections, led[nb].followers[nv].accepted.defections)
    :: else
    fi
}

inline restart(sv)
{
    restarts++;
    self[sv].incarnation++;
    self[sv].acknowledged = 0;
    self[sv].pairs_fresh = true;
    k = 0;
    do
    :: k < NODES ->
        self[sv].peers[k].lease_until_ns = false;
        self[sv].peers[k].their_defections = 0;
        self[sv].peers[k].incarnation = 0;
        self[sv].peers[k].granted_until_ns = false;
        self[sv].peers[k].defections = 0;
        self[sv].peers[k].ack.there = false; /* answers to a process that is no more */
        k++
    :: else -> break
    od;
    k = 1;
    do
    :: k <= BALLOTS ->
        if
        :: owner(k) == sv && led[k].role != PAXOS_FOLLOWER -> led[k].dead = true
        :: else
        fi;
        k++
    :: else -> break
    od;
    k = 0
}

/* May what the former process granted to `l` still be relied on there? */
#define outlives(v, l) (self[l].peers[v].lease_until_ns && self[l].peers[v].incarnation < self[v].incarnation)
#define forget_old(v, l)                                                                                               \
    if                                                                                                                 \
    :: l != v && self[l].peers[v].ack.there && self[l].peers[v].ack.incarnation < self[v].incarnation ->               \
        self[l].peers[v].ack.there = false                                                                             \
    :: else                                                                                                            \
    fi

proctype pair(byte l; byte v) /* a leader's node and a voter, all groups */
{
    do
    :: d_step { true -> /* beat, receive_beat, acknowledge */
            self[v].peers[l].granted_until_ns = true;
            self[l].peers[v].ack.there = true;
            self[l].peers[v].ack.defections = self[v].peers[l].defections;
            self[l].peers[v].ack.incarnation = self[v].incarnation }
    :: d_step { self[l].peers[v].ack.there && self[l].peers[v].ack.incarnation >= self[l].peers[v].incarnation ->
            receive_ack(l, v);
            paxos_lease_valid() }
    :: d_step { self[l].peers[v].lease_until_ns -> self[l].peers[v].lease_until_ns = false }
    :: d_step { self[v].peers[l].granted_until_ns &&
            !(self[l].peers[v].lease_until_ns && self[l].peers[v].incarnation == self[v].incarnation) -> /* time passes */
            self[v].peers[l].granted_until_ns = false;
            if
            :: self[l].peers[v].ack.there && self[l].peers[v].ack.incarnation == self[v].incarnation ->
                self[l].peers[v].ack.there = false
            :: else
            fi }
    od
}

proctype voter(byte v)
{
    do
    :: d_step { restarts < RESTARTS -> restart(v) }
    :: d_step { self[v].pairs_fresh && !outlives(v, 0) && !outlives(v, 1) ->
            self[v].pairs_fresh = false;
            forget_old(v, 0);
            forget_old(v, 1) }
    od
}

proctype group(byte v; byte b)
{
    do
    :: d_step { v == owner(b) && led[b].votes == 0 && self[v].promised < b && !protected_from(v, v) ->
            election__leave_for(v, b); /* election__stand */
            led[b].role = PAXOS_CANDIDATE;
            led[b].votes = 1 << v }
    :: d_step { v != owner(b) && led[b].role == PAXOS_CANDIDATE && !led[b].dead && self[v].promised < b &&
            !protected_from(v, owner(b)) ->
            election__leave_for(v, b); /* election__prepare; its PROMISE may be lost, but that binds nobody */
            led[b].votes = led[b].votes | (1 << v);
            elected(b);
            paxos_lease_valid() }
    :: d_step { v != owner(b) && led[b].role == PAXOS_LEADER && self[v].promised <= b &&
            !(led[b].followers[v].accepted.there &&
              led[b].followers[v].accepted.incarnation == self[v].incarnation &&
              led[b].followers[v].accepted.defections == self[v].peers[owner(b)].defections &&
              self[v].acknowledged == b) ->
            if
            :: self[v].promised < b -> election__leave_for(v, b) /* follow */
            :: else
            fi;
            self[v].acknowledged = b;
            led[b].followers[v].accepted.there = true;
            led[b].followers[v].accepted.defections = self[v].peers[owner(b)].defections;
            led[b].followers[v].accepted.incarnation = self[v].incarnation }
    :: d_step { led[b].followers[v].accepted.there && led[b].role == PAXOS_LEADER && !led[b].dead &&
            self[owner(b)].promised == b &&
            led[b].followers[v].accepted.incarnation >= self[owner(b)].peers[v].incarnation ->
            note_acknowledgement(b, v);
            paxos_lease_valid() }
    od
}

init
{
    atomic {
        i = 0;
        do
        :: i < NODES ->
            self[i].incarnation = 1;
            i++
        :: else -> break
        od;
        i = 0;
        do
        :: i < NODES ->
            if
            :: i > 0 -> run voter(i) /* with the first leader's process its lease ends: nothing to see */
            :: else
            fi;
            k = 0;
            do
            :: k < LEADERS ->
                if
                :: k != i && k + 1 < BALLOTS -> run pair(k, i) /* the highest ballot's lease is nobody's concern */
                :: else
                fi;
                k++
            :: else -> break
            od;
            k = 1;
            do
            :: k <= BALLOTS ->
                run group(i, k);
                k++
            :: else -> break
            od;
            i++
        :: else -> break
        od;
        i = 0;
        k = 0
    }
}
