/*
 * handoff.pml - the handover as built in core/session, for the model checker spin. Run ./check-handoff.
 *
 * Two parties, no arbiter, late commit. An agent decides only from its durable journal, what the kernel shows (is the
 * tree stopped, live, gone?) and the message in hand, so kill -9 of an agent loses nothing but the messages in flight and is
 * modelled as a flush of the channels.
 *
 * As built, and so here: the target speaks only when spoken to; every answer names the target's journal (TID), and from
 * RELEASED on the source acts on one journal only, the one that promised; an operator may ask for an abort after RELEASED; a
 * source whose journal cannot be written before RELEASED runs on without a durable ABORTED, and is found live by the next
 * agent; an ABORT that overtook its OFFER leaves a tombstone; a target that finds its copy live and no journal touches nothing.
 *
 * Knobs (-D...): LOSS, CRASH, DUP, JFAIL, ATT: budgets of faults, number of attempts; DUP copies a message to the
 * source->target stash, to arrive any time later. DEATH=1|2|3: link, target, source gone for good. AMNESIA=1: the target's
 * journal may be lost. MUT=n: a bug put in on purpose, numbered as the tests number them (10 needs an arbiter; 12 is
 * ours: a source that ran on without a durable ABORTED releases all the same).
 */
#ifndef LOSS
#define LOSS 2
#endif
#ifndef CRASH
#define CRASH 2
#endif
#ifndef DUP
#define DUP 1
#endif
#ifndef JFAIL
#define JFAIL 1
#endif
#ifndef ATT
#define ATT 2
#endif
#ifndef DEATH
#define DEATH 0
#endif
#ifndef AMNESIA
#define AMNESIA 0
#endif
#ifndef MUT
#define MUT 0
#endif
#define ALL 3		/* two chunks: bits 1 and 2 */

/* type, attempt, argument: chunks in HAVE and CHUNK, the target's journal in all others */
mtype = { OFFER, CHUNK, HAVE, PREPARED, RELEASE, RUNNING, REFUSED, ABORT, DONE, UNKNOWN };
mtype = { S_DUMP, S_SEALED, S_RELEASED, S_ABORTED, S_DONE };
mtype = { T_NONE, T_PREP, T_ACT, T_RUN, T_REF, T_CLOSED };
/* process tree as the kernel shows it */
mtype = { P_GONE, P_STOP, P_LIVE };

chan s2t = [2] of { mtype, byte, byte };
chan t2s = [2] of { mtype, byte, byte };

mtype sj = S_DUMP;  mtype sp = P_STOP;  bool simg = false;  byte att = 1;  byte stj = 0;
mtype tj = T_NONE;  mtype tp = P_GONE;  byte tch = 0;       byte tatt = 0; byte tid = 1;
bool  vsent = false;		/* volatile, only for MUT 4 */
bool  tquit = false;		/* MUT 3 */

byte loss = LOSS, crash = CRASH, dup = DUP, jfail = JFAIL;
mtype zm; byte zn, za; bool stash = false;	/* one message delayed at will */
bool cut = false, sdead = false, tdead = false, forgot = false;

#define live_s	(sp == P_LIVE)
#define live_t	(tp == P_LIVE)
#define t_owns	(tj == T_ACT || tj == T_RUN || tj == T_CLOSED)
#define s_copy	(sp != P_GONE || simg)
#define t_copy	(tp != P_GONE || tch == ALL)
/* sealed, and not run on since: else only ABORTED can follow (MUT 9 never looked) */
#define s_offers (sj == S_SEALED && (sp != P_LIVE || MUT == 9))

inline SEND(ch, m, n, a) {
	if
	:: cut -> skip
	:: !cut && nfull(ch) -> ch!m,n,a
	:: !cut && full(ch) -> skip
	:: !cut && loss > 0 -> loss--
	fi
}

inline FLUSH() {
	do
	:: nempty(s2t) -> s2t?_,_,_
	:: empty(s2t) && nempty(t2s) -> t2s?_,_,_
	:: empty(s2t) && empty(t2s) -> break
	od
}

/* ---------------------------------------------------------------- source */

active proctype Src_timer()
{
end:	do
	/* seal: captured, AND the kernel says stopped, AND the image is whole */
	:: atomic { !sdead && sj == S_DUMP && (sp == P_STOP || MUT == 9) -> simg = true; sj = S_SEALED }
	/* the capture failed, or the tree ran on */
	:: atomic { !sdead && sj == S_DUMP && sp == P_LIVE && MUT != 9 -> sj = S_ABORTED }
	/* ABORTED could not be written: it must not stand still because a disk failed */
	:: atomic { !sdead && s_offers && sp == P_STOP && jfail > 0 -> jfail--; sp = P_LIVE }
	/* the next agent, or the next write, finds it live */
	:: atomic { !sdead && sj == S_SEALED && sp == P_LIVE && MUT != 9 -> sj = S_ABORTED }

	/* say what stands */
	:: atomic { !sdead && (s_offers || (MUT == 12 && sj == S_SEALED)) && empty(s2t) -> SEND(s2t, OFFER, att, 0) }
	:: atomic { !sdead && sj == S_RELEASED && empty(s2t) -> SEND(s2t, RELEASE, att, stj) }
	:: atomic { !sdead && sj == S_DONE && tj != T_CLOSED && empty(s2t) -> SEND(s2t, DONE, att, stj) }
	:: atomic { !sdead && sj == S_ABORTED && sp == P_LIVE && tj != T_REF && empty(s2t) -> SEND(s2t, ABORT, att, 0) }

	/* act on the journal */
	:: atomic { !sdead && sj == S_ABORTED && sp == P_STOP -> sp = P_LIVE }
	:: atomic { !sdead && sj == S_ABORTED && sp == P_GONE && simg -> sp = P_STOP }
	:: atomic { !sdead && sj == S_DONE && s_copy -> sp = P_GONE; simg = false }

	/* try again later with a new attempt number */
	:: atomic { !sdead && sj == S_ABORTED && sp == P_LIVE && att < ATT ->
		att++; stj = 0; simg = false; sp = P_STOP; sj = S_DUMP }

	/* bugs put in on purpose */
	:: atomic { MUT == 1 && sj == S_RELEASED -> sj = S_ABORTED }
	:: atomic { MUT == 4 && vsent && sj == S_SEALED -> sj = S_RELEASED; vsent = false }
	:: atomic { MUT == 7 && sj == S_RELEASED && s_copy -> sp = P_GONE; simg = false }
	od
}

/* deadline or operator; own process, so that weak fairness makes it come */
active proctype Src_deadline()
{
	bool asked = false;
end:	do
	:: atomic { !sdead && sj == S_SEALED -> sj = S_ABORTED }
	/* an operator may ask the target to refuse, once */
	:: atomic { !sdead && sj == S_RELEASED && !asked && empty(s2t) -> asked = true; SEND(s2t, ABORT, att, stj) }
	od
}

active proctype Src_rx()
{
	mtype m; byte n, a;
end:	do
	:: atomic { !sdead && nempty(t2s) -> t2s?m,n,a;
		if
		:: n != att ->			/* stale attempt: it is aborted */
			if
			:: (m == PREPARED || m == HAVE) && n < att -> SEND(s2t, ABORT, n, 0)
			:: else -> skip
			fi
		:: n == att && m == HAVE && s_offers ->
			if
			:: (a & 1) == 0 -> SEND(s2t, CHUNK, att, 1)
			:: (a & 1) != 0 && (a & 2) == 0 -> SEND(s2t, CHUNK, att, 2)
			:: a == ALL -> skip
			fi
		:: n == att && m == PREPARED && (s_offers || (MUT == 12 && sj == S_SEALED)) ->
			if
			:: MUT != 4 -> stj = a; sj = S_RELEASED		/* journal, then send */
			:: MUT == 4 -> stj = a; SEND(s2t, RELEASE, att, a); vsent = true
			fi
		:: n == att && (m == PREPARED || m == HAVE) && sj == S_ABORTED -> SEND(s2t, ABORT, att, 0)
		:: n == att && m == RUNNING && sj == S_RELEASED && a == stj -> sj = S_DONE
		:: n == att && m == RUNNING && (sj == S_ABORTED || sj == S_SEALED) ->
			assert(MUT != 0)	/* target runs without leave */
		:: n == att && m == REFUSED && (sj == S_SEALED || (sj == S_RELEASED && a == stj)) -> sj = S_ABORTED
		:: n == att && m == UNKNOWN && sj == S_RELEASED ->
			if
			:: MUT == 5 -> sj = S_ABORTED
			:: MUT != 5 -> skip	/* proves nothing: stay in doubt */
			fi
		:: else -> skip
		fi; m = 0; n = 0; a = 0 }
	od
}

/* ---------------------------------------------------------------- target */

active proctype Tgt_timer()
{
end:	do
	/* all chunks verified: restore up to the gate, tree stopped */
	:: atomic { !tdead && tj == T_NONE && tatt > 0 && tch == ALL -> tp = P_STOP; tj = T_PREP }
	/* restore fails: no GPU, old driver, no memory */
	:: atomic { !tdead && tj == T_NONE && tatt > 0 && tch == ALL -> tj = T_REF }
	:: atomic { !tdead && tj == T_REF && (tp != P_GONE || tch != 0) -> tp = P_GONE; tch = 0 }

	/* after a reboot: restore again from the durable image */
	:: atomic { !tdead && (tj == T_PREP || tj == T_ACT) && tp == P_GONE && tch == ALL -> tp = P_STOP }
	:: atomic { !tdead && tj == T_ACT && tp == P_STOP -> tp = P_LIVE }
	:: atomic { !tdead && tj == T_ACT && tp == P_LIVE -> tj = T_RUN }

	/* bugs put in on purpose */
	:: atomic { MUT == 2 && tj == T_PREP -> tj = T_ACT }
	:: atomic { MUT == 3 && tj == T_PREP && !tquit -> tp = P_GONE; tch = 0; tquit = true }
	:: atomic { MUT == 11 && tj == T_ACT && tp == P_STOP -> tp = P_GONE; tch = 0 }
	:: atomic { MUT == 6 && tj == T_PREP && tp == P_LIVE -> tj = T_ACT }
	od
}

/* time to live, or an operator at the target; own process, as above */
active proctype Tgt_decide()
{
end:	do
	:: atomic { !tdead && tatt > 0 && (tj == T_NONE || (tj == T_PREP && MUT != 3)) && sj != S_SEALED -> tj = T_REF }
	/* the same while the source still offers: an operator, in any case no more often than there are faults */
	:: atomic { !tdead && tatt > 0 && (tj == T_NONE || (tj == T_PREP && MUT != 3)) && crash > 0 -> crash--; tj = T_REF }
	od
}

active proctype Tgt_rx()
{
	mtype m; byte n, a;
end:	do
	:: atomic { !tdead && nempty(s2t) -> s2t?m,n,a;
		if
		:: n < tatt && MUT != 8 -> skip			/* stale attempt */
		/* no journal, and yet it runs here: touch nothing */
		:: tatt == 0 && tp == P_LIVE && (m == OFFER || m == ABORT) -> skip
		:: n > tatt && (m == RELEASE || m == DONE) && !t_owns -> SEND(t2s, UNKNOWN, n, tid)
		:: n > tatt && m == CHUNK && !t_owns -> skip	/* of an image that was not offered */
		:: n > tatt && m == OFFER && !t_owns && !(tatt == 0 && tp == P_LIVE) ->
			/* a new attempt voids the old one (the source has aborted it) */
			tatt = n; tj = T_NONE; tch = 0; tp = P_GONE;
			SEND(t2s, HAVE, tatt, 0)
		:: n > tatt && m == ABORT && !t_owns && !(tatt == 0 && tp == P_LIVE) ->
			tatt = n; tj = T_REF; SEND(t2s, REFUSED, tatt, tid)
		:: n > tatt && t_owns -> assert(false)
		:: tatt > 0 && (n == tatt || (n < tatt && MUT == 8)) ->
			if
			:: m == OFFER && tj == T_NONE -> SEND(t2s, HAVE, tatt, tch)
			:: m == CHUNK && tj == T_NONE -> tch = tch | a; SEND(t2s, HAVE, tatt, tch)
			:: m == OFFER && tj == T_PREP && tp == P_STOP -> SEND(t2s, PREPARED, tatt, tid)
			:: m == RELEASE && (tj == T_NONE || (a != tid && MUT != 8)) -> SEND(t2s, UNKNOWN, tatt, tid)
			:: m == RELEASE && tj == T_PREP && (a == tid || MUT == 8) ->
				if
				:: MUT != 6 -> tj = T_ACT	/* journal, then start */
				:: MUT == 6 && tp == P_STOP -> tp = P_LIVE
				:: MUT == 6 && tp != P_STOP -> skip
				fi
			:: (m == RELEASE || m == OFFER || m == ABORT) && tj == T_REF && (a == tid || m != RELEASE) ->
				SEND(t2s, REFUSED, tatt, tid)
			:: (m == RELEASE || m == OFFER || m == ABORT) && (tj == T_RUN || tj == T_CLOSED) && (a == tid || m != RELEASE) ->
				SEND(t2s, RUNNING, tatt, tid)
			:: m == ABORT && (tj == T_NONE || tj == T_PREP) -> tj = T_REF; SEND(t2s, REFUSED, tatt, tid)
			:: m == DONE && tj == T_RUN && a == tid -> tj = T_CLOSED
			:: else -> skip
			fi
		:: else -> skip
		fi; m = 0; n = 0; a = 0 }
	od
}

/* ---------------------------------------------------------------- faults */

active proctype Env()
{
end:	do
	:: atomic { crash > 0 -> crash--;
		if
		:: true -> skip				/* kill -9 of either agent, or the connection breaks */
		:: sj == S_DUMP && sp == P_STOP -> sp = P_LIVE	/* the capturing program dies */
		:: sj != S_DUMP && sp == P_STOP -> sp = P_GONE	/* source reboots */
		:: tp == P_STOP -> tp = P_GONE			/* target reboots */
		fi; vsent = false; FLUSH() }
	:: atomic { dup > 0 && !stash && nempty(s2t) -> s2t?<zm,zn,za>; dup--; stash = true }
	:: atomic { stash && !cut && nfull(s2t) -> s2t!zm,zn,za; stash = false; zm = 0; zn = 0; za = 0 }
	:: atomic { DEATH == 1 && !cut -> cut = true; FLUSH() }
	/* a node that goes with the workload running on it takes it along, as without us */
	:: atomic { DEATH == 2 && !tdead && tp != P_LIVE -> tdead = true; cut = true; tp = P_GONE; FLUSH() }
	:: atomic { DEATH == 3 && !sdead && sp != P_LIVE -> sdead = true; cut = true; sp = P_GONE; simg = false; FLUSH() }
	:: atomic { AMNESIA && !forgot && tatt > 0 -> forgot = true; tj = T_NONE; tatt = 0; tid = 2; FLUSH();
		if
		:: tch = 0
		:: true -> skip			/* the chunks may outlive the journal */
		fi;
		if
		:: tp == P_STOP -> tp = P_GONE
		:: else -> skip
		fi }
	od
}

/* ------------------------------------------------------------ properties */

/* I1 never two live copies; I2 the owner's copy is whole; I3 no split decision; I4 the target runs it only as its owner */
#define I1 (!(live_s && live_t))
#define I2 ((t_owns && (t_copy || tdead || forgot)) || (!t_owns && (s_copy || sdead || forgot)))
#define I3 (!(t_owns && tatt == att && sj == S_ABORTED))
#define I4 (!live_t || t_owns || forgot)

ltl safe  { [] (I1 && I2 && I3 && I4) }
/* L1 in the end it runs for good; L2 and the losing copy is cleaned away */
ltl runs  { <> [] (live_s || live_t) }
ltl clean { <> [] ((live_s && !live_t && tp == P_GONE && tch == 0) || (live_t && sp == P_GONE && !simg)) }
/* sanity: must FAIL, the trace is a completed migration, the second with all faults spent */
ltl never_moves { [] !(tj == T_CLOSED && live_t && sp == P_GONE && !simg) }
ltl never_moves_hard { [] !(tj == T_CLOSED && live_t && sp == P_GONE && loss == 0 && crash == 0 && dup == 0 && !stash && att == ATT) }
/* link or target gone for good: it runs, or is frozen whole in doubt */
ltl doubt { <> [] (live_s || live_t || (sj == S_RELEASED && s_copy)) }
ltl doubt_s_gone { <> [] (live_s || live_t || tj == T_PREP || tj == T_REF || tch != ALL) }
