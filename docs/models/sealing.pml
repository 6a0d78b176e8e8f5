/*
 * Sealing: how no reader passes an event. This is the argument of backend_sql_seal.go as a model for
 * spin; docs/models/check runs it, in all the ways that stand there.
 *
 * Three writers draw numbers and store an event each: one rolls back, one takes as long as it likes between
 * any two steps, and one has its number and its row at once. Two sealers, of two processes, look at the log and move their sealed positions, up to which
 * their readers read. A deleter deletes events.
 *
 * POSTGRES chooses how Postgres tells who is in flight, by the locks of transactions; without it, what is
 * modelled is InnoDB, where a number is drawn before there is any trace of it, and a row that is in
 * flight is found by a lock.
 *
 * NO2, NO3 and NO4 leave out a step of the argument. NOMARK has the deleter remove what it likes.
 *
 * P_PASSED     no event is committed at or below a sealed position
 * P_ACCOUNTED  each position up to a sealed one holds an event or a gap row, unless it was deleted below
 *              the mark, which each process reads
 * P_EXACT      no writer is refused because of a gap row: on Postgres that would end a caller's transaction
 * P_TWICE      a writer is refused only for a number that two looks have found missing
 * P_ENDLESS    no sealer gets to the end of the log: this one has to break
 * P_NOWAIT     no sealer waits for a row that was in flight when its look began
 */

#ifdef POSTGRES
#define N 3 /* positions: one for each writer */
#else
#define N 4 /* and one more for a writer that is refused */
#endif
#define SEALERS 2

mtype = { none, inflight, event, gap, deleted };

mtype at[N + 1] = none;     /* what is at a position */
byte drawn = 0;             /* the last number that was handed out */
#ifdef POSTGRES
byte locking = 0;           /* the transactions that hold the events table's lock, as bits */
#define LOCK locking = locking | (1 << id)
#define UNLOCK locking = locking & ~(1 << id)
#else
#define LOCK skip
#define UNLOCK skip
#endif
byte mark = 0;              /* the sealed position that every process knows */
byte sealed[SEALERS] = 0;   /* the sealed position in each process */
#ifdef P_TWICE
byte looks[N + 1] = 0;      /* how many looks of one process have found a position missing: at most 2 */
#endif

#define EXISTS(p) (at[p] == event || at[p] == gap)

#ifdef P_ACCOUNTED
#define CHECK_ACCOUNTED \
	for (q : 1 .. N) { \
		assert(EXISTS(q) || q <= mark || (q > sealed[0] && q > sealed[1])); \
	}
#else
#define CHECK_ACCOUNTED q = 0
#endif

#ifdef P_EXACT
#define CHECK_REFUSED assert(false)
#elif defined(P_TWICE)
#define CHECK_REFUSED assert(looks[p] >= 2)
#else
#define CHECK_REFUSED skip
#endif

#ifdef P_PASSED
#define CHECK_PASSED assert(p > sealed[0] && p > sealed[1])
#else
#define CHECK_PASSED skip
#endif

/* write is a transaction with one append. If it is refused, because a gap row is in its place, it is
 * retried. The lock comes before the number, and goes after the row is seen. */
proctype write(byte id; bool aborts)
{
	byte p;

	do
	:: atomic {
#ifdef POSTGRES
		LOCK
	   }
	   atomic {
#endif
		if
		:: drawn < N -> drawn++; p = drawn
		:: else -> UNLOCK; break
		fi
	   }
	   atomic {
		if
		:: at[p] == none -> at[p] = inflight
		:: else -> /* the primary key */
			CHECK_REFUSED;
			UNLOCK;
			p = 0;
			goto again
		fi
	   }
	   atomic {
		if
		:: aborts -> at[p] = none
		:: else -> CHECK_PASSED; at[p] = event
		fi
#ifdef POSTGRES
	   }
	   atomic {
		UNLOCK
#endif
		;
		p = 0;
		break
	   }
again:
	   skip
	od
}

/* quick is a write of which the number is drawn, and the row there, at once. */
proctype quick(byte id)
{
	byte p;

	atomic {
		drawn < N;
		LOCK;
		drawn++; p = drawn;
		at[p] = inflight
	}
	atomic {
		CHECK_PASSED; at[p] = event;
		p = 0
	}
	UNLOCK
}

/* seal is a process that looks again and again. */
proctype seal(byte s)
{
	byte found, last, p, q, now, began;
	byte holes = 0;            /* found missing before, as bits */
	byte writers[N + 1] = 0;   /* for each of them, who may fill it */
	byte fresh, dead, dismissed = 0;

look:
	skip;
#ifdef POSTGRES
	now = locking; /* before the positions are read: who is over by now has made its row visible */
#endif
	d_step {
		/* One statement reads the mark, and the positions that exist. */
		sealed[s] = (mark > sealed[s] -> mark : sealed[s]);
		found = 0; began = 0; last = 0;
		for (p : 1 .. N) {
			if
			:: EXISTS(p) -> found = found | (1 << p); last = p
			:: else
			fi;
			if
			:: at[p] == inflight -> began = began | (1 << p)
			:: else
			fi
		};
#ifndef P_NOWAIT
		began = 0;
#endif
		/* Step 1: while they are consecutive the sealed position follows. */
		p = sealed[s] + 1;
		do
		:: p <= N && ((found | dismissed) & (1 << p)) -> p++
		:: else -> break
		od;
		sealed[s] = p - 1;
#ifdef P_ENDLESS
		assert(sealed[s] < N);
#endif
		CHECK_ACCOUNTED;
		/* Step 2: a hole that was just seen is left for the next look. */
		fresh = 0; dead = 0;
		for (p : 1 .. N) {
			if
			:: p > sealed[s] && p < last && !(found & (1 << p)) && !(dismissed & (1 << p)) ->
				if
				:: holes & (1 << p) ->
#ifdef P_TWICE
					looks[p] = 2;
#endif
					writers[p] = writers[p] & now;
					dead = dead | (1 << p)
				:: else ->
#ifdef P_TWICE
					looks[p] = (looks[p] == 0 -> 1 : looks[p]);
#endif
					fresh = fresh | (1 << p)
#ifdef NO2
					; writers[p] = now; dead = dead | (1 << p)
#endif
				fi
			:: else
			fi
		}
		holes = dead | fresh; last = 0; found = 0;
		for (p : 1 .. N) { /* what is over needs no memory */
			if
			:: !(holes & (1 << p)) -> writers[p] = 0
			:: else
			fi
		}
		now = 0; p = 0
	}

#if defined(POSTGRES) && !defined(NO2)
	d_step { /* after the positions were read: whoever was given the number had the lock before */
		now = locking;
		for (p : 1 .. N) {
			if
			:: fresh & (1 << p) -> writers[p] = now
			:: else
			fi
		}
		now = 0; fresh = 0; p = 0
	}
#endif

	/* Step 3: find out, without waiting, whether a writer is in flight. */
#ifndef NO3
	d_step {
		for (p : 1 .. N) {
			if
#ifdef POSTGRES
			:: (dead & (1 << p)) && writers[p] -> dead = dead & ~(1 << p)
#else
			:: (dead & (1 << p)) && at[p] == inflight -> dead = dead & ~(1 << p)
#endif
			:: else
			fi
		}
	}
#endif

	/* Step 4: otherwise insert gap rows, but for those that exist by now. */
	p = 1;
	do
	:: p > N -> break
	:: p <= N && !(dead & (1 << p)) -> p++
	:: p <= N && (dead & (1 << p)) ->
#ifdef NO4
		dismissed = dismissed | (1 << p);
#else
		atomic {
#ifdef P_NOWAIT
			assert(at[p] != inflight || !(began & (1 << p)));
#endif
			at[p] != inflight -> /* or else the statement waits for it */
			if
			:: EXISTS(p)
			:: else -> at[p] = gap
			fi
		}
#endif
		p++
	od;
	skip;
	atomic {
		p = 0; q = 0; dead = 0; began = 0;
		if
		:: mark < sealed[s] -> mark = sealed[s] /* now and then */
		:: true
		fi;
		if
		:: sealed[s] < N -> goto look
		:: else -> holes = 0
		fi
	}
}

/* erase deletes an event, or none. It removes what is below the mark, and makes gap rows of others. That
 * it has read the mark before makes no difference: by then it can only be higher. */
proctype erase()
{
	byte p, q;

	atomic {
		select (p : 1 .. N);
		if
		:: at[p] == event ->
			if
#ifdef NOMARK
			:: true -> at[p] = deleted
#else
			:: p < mark -> at[p] = deleted
			:: else -> at[p] = gap
#endif
			fi;
			CHECK_ACCOUNTED;
			q = 0
		:: true
		fi;
		p = 0
	}
}

init {
	atomic {
		run write(0, false);
		run write(1, true);
		run quick(2);
		run seal(0);
		run seal(1);
		run erase()
	}
}
