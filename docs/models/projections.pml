/*
 * Projections whose definition changes while they run. No wanted event is passed over silently, each event
 * counts once, and no definition waits for good. docs/models/check runs this model for spin.
 *
 * An appender stores events of an older and of a newer name. Runners share one row, each in a process of its
 * own: two of an older definition, and two of a newer one that wants one name more. RUNNERS chooses fewer. With
 * NEITHER each definition wants a name that the other lacks. A runner can be killed between any two steps, and
 * begins again. It can be stopped between any two steps, beyond its lease too, and go on. That the order of
 * events is sealed is the subject of sealing.pml, and taken for granted here.
 *
 * The row holds position, state, lease, epoch and wanted set, and for each name that left the set the
 * position up to which it was taken in. An epoch only grows. The model keeps what an epoch is compared for,
 * which is finite: "mine" are the runners whose epoch is the row's, "fresh" those that have read it.
 *
 * OLDER and NEWER are the definitions' OnChange: REFUSE (the default), REBUILD or CONTINUE.
 *
 * These leave out a step of the argument:
 *
 * NOTAKEOVER   a newer definition waits for a holder that is alive
 * ASWIDE       it takes the lease from one that is as wide, too
 * UNASKED      so does one that is neither wider nor narrower
 * TAKESFIRST   it takes the lease before it finds out that it is refused
 * NOEPOCH      a lease is taken without a new epoch
 * NOREREAD     the row is not read again once the lease is taken
 * EARLYSET     the set changes before the definition goes on
 * NOLOOK       it goes on without a look for events that were passed over
 * NOUPTO       up to where a name was taken in is forgotten
 * NOFENCE      a commit does not compare epochs
 * NOSTOP       a narrower definition passes over events that it does not know
 * HOLDS        it keeps the lease while it stands at one
 * CONTENDS     it gives the lease back there, and takes it again though nothing has changed
 *
 * BYHOLDER is another way that holds: a definition takes the lease from one that is narrower, also if the
 * stored set is its own. With it a narrower definition may keep the lease where it stands.
 *
 * P_PASSED   the row is never past an event that its set wants and its state lacks, unless a definition with
 *            ContinueOnChange went on
 * P_ONCE     an event's rows are written once if the state holds it, and not at all otherwise
 * P_WAITS    no older definition passes over an event while a newer one has seen it run, and waits
 * P_LEAVES   a definition that is refused leaves the set as it was
 * P_TRUE     a refusal names an event that has not been taken in
 * P_ENDS     all that is appended is taken in, with a fair scheduler and one kill at most
 * P_ENDLESS  the row never gets to the end of the log: this one has to break
 */

#define A 1
#define B 2
#define C 4
#ifdef NEITHER
#define OLD (A | B)
#define NEW (A | C)
#else
#define OLD A
#define NEW (A | B)
#endif

#define REFUSE 0
#define REBUILD 1
#define CONTINUE 2
#ifndef OLDER
#define OLDER REFUSE
#endif
#ifndef NEWER
#define NEWER REFUSE
#endif

#ifndef RUNNERS
#define RUNNERS 15 /* as bits: 1 and 2 are of the older definition, 4 and 8 of the newer */
#endif
#ifndef N
#define N 3 /* events */
#endif
#ifndef KILLS
#define KILLS 1
#endif

/* The log. */
byte name[N + 1];
byte drawn = 0;

/* The row. */
byte pos = 0;
byte in = 0;         /* the state: the events that it holds, as bits */
byte set = 0;        /* the names that are wanted: none yet */
byte uptoB = 0;      /* up to where a name was taken in when it left the set */
byte uptoC = 0;
bool free = true;    /* no lease, or one that has run out */
byte claimed = 0;    /* the names that the holder's definition wants */
byte mine = 0;       /* the runners that the epoch belongs to, as bits */
byte fresh = 0;      /* the runners that have read the row since the epoch changed */

byte wrote[N + 1];   /* how many times an event's rows have been written: at most 2 */
byte excused = 0;    /* events that a definition with ContinueOnChange left out */
byte stood = 0;      /* runners that stand at an event and have seen nothing change since */
byte waiting = 0;    /* runners that have read the row since the epoch changed, and wait */
#ifdef P_ENDS
byte kills = KILLS;
#endif

#define ME (1 << id)
#define UPTO(n) (n == B -> uptoB : (n == C -> uptoC : pos))

#define SAME (set == 0 || set == want)
#define WIDER (set != 0 && set != want && !(set & ~want))
#define NARROWER (set != want && !(want & ~set))
#define NEITHERS ((set & ~want) && (want & ~set) && set != 0)

#define NEWEPOCH mine = 0; fresh = 0; waiting = 0

#ifdef P_ENDS
#define KILL :: kills > 0 -> kills--; goto call
#else
#define KILL :: true -> goto call
#endif

#ifdef NOFENCE
#define HELD true
#else
#define HELD (mine & ME)
#endif

#define CHECK \
	for (q : 1 .. N) { \
		CHECK_PASSED; \
		CHECK_ONCE \
	} \
	q = 0
#ifdef P_PASSED
#define CHECK_PASSED assert(q > pos || !(name[q] & set) || (in & (1 << q)) || (excused & (1 << q)))
#else
#define CHECK_PASSED skip
#endif
#ifdef P_ONCE
#define CHECK_ONCE assert(wrote[q] == ((in & (1 << q)) -> 1 : 0))
#else
#define CHECK_ONCE skip
#endif

#ifdef P_TRUE
#define CHECK_TRUE assert(found == 0 || !(in & (1 << found)))
#else
#define CHECK_TRUE skip
#endif

/* search finds the first event at or before the row's position that want holds, the set does not, and that
 * has not been taken in; 0 if there is none. */
#ifdef NOUPTO
#define OUT(q) (name[q] & want & ~set)
#else
#define OUT(q) ((name[q] & want & ~set) && q > UPTO(name[q]))
#endif
inline search()
{
	found = 0;
	for (q : 1 .. N) {
		if
		:: found == 0 && q <= pos && OUT(q) -> found = q
		:: else
		fi
	}
	q = 0
}

/* adopt makes want the stored set. */
inline adopt()
{
	uptoB = ((set & B) && !(want & B) -> pos : uptoB);
	uptoC = ((set & C) && !(want & C) -> pos : uptoC);
	if
	:: set != want -> stood = 0
	:: else
	fi;
	set = want
}

/* The lease is to be had. A narrower definition that stands at an event does not take it again before
 * something changes, so that those that get on have it. */
#ifdef CONTENDS
#define FREE free
#else
#define FREE (free && !(NARROWER && (stood & ME)))
#endif

/* A wider definition does not wait for the holder, unless that is as wide. */
#ifdef NOTAKEOVER
#define TAKEOVER false
#elif defined(ASWIDE)
#define TAKEOVER WIDER
#elif defined(UNASKED)
#define TAKEOVER ((WIDER || NEITHERS) && claimed != want)
#elif defined(BYHOLDER)
#define TAKEOVER ((WIDER || SAME) && claimed != want && !(claimed & ~want))
#else
#define TAKEOVER (WIDER && claimed != want && !(claimed & ~want))
#endif

proctype runner(byte id; byte want; byte change)
{
	byte was, at, to, found, q;

call:
	atomic {
		was = 0; at = 0; to = 0; found = 0; q = 0;
		mine = mine & ~ME; fresh = fresh & ~ME; stood = stood & ~ME; waiting = waiting & ~ME;
read:
		if
		:: NEITHERS && change == REFUSE -> goto refused
		:: WIDER && change == REFUSE ->
			/* It need not have the lease to find out that it is refused. Where that takes long it may take the
			 * lease first, but not each time. */
#ifndef TAKESFIRST
			d_step { search() };
#endif
			if
			:: found -> CHECK_TRUE; goto refused
#ifdef P_ENDS
			:: !found && (FREE || TAKEOVER)
#else
			:: FREE || TAKEOVER -> found = 0
#endif
			fi
		:: !((WIDER || NEITHERS) && change == REFUSE) && (FREE || TAKEOVER)
#ifdef P_WAITS
		:: WIDER && !(FREE || TAKEOVER) && !(waiting & ME) -> waiting = waiting | ME; goto read
#endif
		fi;
#ifdef NOREREAD
		was = set;
#endif
		fresh = fresh | ME
	}

	/* It takes the lease if the epoch is the one that it has read, and reads the row again: the last holder
	 * may have changed the set after its lease had run out. Until it loses the lease nothing changes the
	 * row, so that both are one step, and so is the look for events that were passed over. */
	atomic {
		if
		:: fresh & ME
		:: !(fresh & ME) -> goto read
		KILL
		fi;
		free = false;
		claimed = want;
#ifndef NOEPOCH
		NEWEPOCH;
#endif
		mine = mine | ME;
		at = pos;
#ifndef NOREREAD
		was = set;
#endif
		if
		:: was == want -> goto follow
		:: was == 0 -> goto goon
		:: was != 0 && was != want && !(want & ~was) ->
			if
			:: change == REFUSE -> goto follow
			:: else -> goto goon
			fi
		:: was != 0 && (want & ~was)
		fi;
#ifndef NOLOOK
		d_step { search() };
		if
		:: (was & ~want) && change == REFUSE -> /* neither, by now */
			found = 0;
			goto giveup
		:: !((was & ~want) && change == REFUSE)
		fi;
#ifdef EARLYSET
		adopt();
#endif
		if
		:: found && change == REFUSE -> goto giveup
		:: else
		fi
#endif
	}

goon:
	/* It goes on: the set becomes its own, with what comes of that, if the epoch is still its own. */
	atomic {
		if
		:: !HELD -> goto lost
		:: HELD -> d_step {
			if
			:: found && change == REBUILD ->
				set = want; pos = 0; in = 0; at = 0; uptoB = 0; uptoC = 0; excused = 0; stood = 0;
				for (q : 1 .. N) { wrote[q] = 0 }
			:: else ->
				if
				:: change == CONTINUE ->
					for (q : 1 .. N) {
						if
						:: q <= pos && OUT(q) -> excused = excused | (1 << q)
						:: else
						fi
					}
				:: else
				fi;
				adopt()
			fi;
			found = 0; was = want;
			CHECK
		   }
		KILL
		fi
	}

follow:
	/* A batch: what is there by now, or a part of it. */
	atomic {
		if
		:: at < drawn ->
			to = at + 1;
			do
			:: to < drawn -> to++
			:: break
			od
		:: at == drawn && drawn < N && !(mine & ME) -> goto lost /* it asks now and then */
#ifndef P_ENDS
		:: true -> goto give /* stopped, or a catch-up that has come to its end */
#endif
		KILL
		fi;
#ifndef NOSTOP /* a narrower definition stops before an event that it does not know */
		for (q : 1 .. N) {
			if
			:: q > at && q <= to && (name[q] & was & ~want) -> to = q - 1
			:: else
			fi
		}
		q = 0;
		if
		:: to == at -> to = 0; goto stand
		:: else
		fi
#endif
	}
	/* The handlers run. The checkpoint is the fence. */
	atomic {
		if
		:: !HELD -> goto lost
		:: HELD -> d_step {
			for (q : 1 .. N) {
				if
				:: q > at && q <= to && (name[q] & want) ->
					in = in | (1 << q);
					wrote[q] = (wrote[q] < 2 -> wrote[q] + 1 : 2)
#ifdef P_WAITS
				:: q > at && q <= to && !(name[q] & want) && (name[q] & NEW) -> assert(!waiting)
#endif
				:: else
				fi
			};
			pos = to; at = to; to = 0;
#ifdef P_ENDLESS
			assert(pos < N || !(in & (1 << N)));
#endif
			free = false;
			stood = 0;
			CHECK
		   }
		KILL
		fi
	}
	goto follow;

stand:
	/* It stands by without the lease: a definition that knows the event may come. */
#ifdef HOLDS
	atomic {
		if
		:: !(mine & ME) -> goto lost
		KILL
		fi
	}
#else
	atomic {
		if
		:: mine & ME -> free = true; claimed = 0; NEWEPOCH
		:: !(mine & ME)
		KILL
		fi;
		stood = stood | ME;
		was = 0; at = 0;
		goto read
	}
#endif

lost:
	atomic { was = 0; at = 0; to = 0; found = 0; q = 0; mine = mine & ~ME };
	goto read;

giveup:
	/* It is refused, and gives the lease back. */
	atomic {
		CHECK_TRUE;
#ifdef P_LEAVES
		assert(!(mine & ME) || set == was);
#endif
		if
		:: mine & ME -> free = true; claimed = 0; NEWEPOCH
		:: !(mine & ME)
		KILL
		fi
	}
refused:
#ifdef P_ENDS
	/* It is called again and again, for as long as there is something to do. */
	if
	:: pos < N
	fi;
#endif
	goto call;

give:
	atomic {
		if
		:: mine & ME -> free = true; claimed = 0; NEWEPOCH
		:: !(mine & ME)
		KILL
		fi;
		goto call
	}
}

proctype append()
{
	do
	:: atomic {
		drawn < N ->
		if
		:: name[drawn + 1] = A
		:: name[drawn + 1] = B
#ifdef NEITHER
		:: name[drawn + 1] = C
#endif
		fi;
		drawn++
	   }
	:: drawn == N -> break
	od
}

/* clock ends leases, also of runners that live: they were stopped, or cut off. For P_ENDS only those of
 * runners that are gone. */
proctype clock()
{
	do
	:: atomic {
#ifdef P_ENDS
		!free && !mine -> free = true; claimed = 0
#else
		!free -> free = true; claimed = 0
#endif
	   }
	od
}

#ifdef P_ENDS
proctype judge()
{
	timeout -> assert(drawn == N && pos == N)
}
#endif

init {
	atomic {
		run runner(0, OLD, OLDER);
		run runner(2, NEW, NEWER);
#if RUNNERS & 2
		run runner(1, OLD, OLDER);
#endif
#if RUNNERS & 8
		run runner(3, NEW, NEWER);
#endif
		run append();
		run clock();
#ifdef P_ENDS
		run judge()
#endif
	}
}
