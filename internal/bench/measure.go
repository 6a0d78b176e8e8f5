package main

import (
	"context"
	"slices"
	"sync"
	"time"
)

// side does the work of a case for about as long as it is told, and returns how many units it has
// done and how long they took.
type side func(ctx context.Context, d time.Duration) (units int, took time.Duration, err error)

// benchCase is some work, done by the library and by hand.
type benchCase struct {
	name     string
	unit     string
	lib, raw side
	goal     float64 // of library ÷ raw
}

// result is what a case came to: units a second, medians over the rounds.
type result struct {
	benchCase
	libRate, rawRate, ratio float64
	low, high               float64 // quartiles of the ratio
}

// measure runs both sides of a case in turn, the other one first in every other round, after a
// round that does not count.
func measure(ctx context.Context, c benchCase) (result, error) {
	var libs, raws, ratios []float64
	for i := range *rounds + 1 {
		sides := []side{c.lib, c.raw}
		var rates [2]float64
		for j := range sides {
			k := (i + j) % 2
			d := *span
			if i == 0 {
				d /= 4
			}
			n, took, err := sides[k](ctx, d)
			if err != nil {
				return result{}, err
			}
			rates[k] = float64(n) / took.Seconds()
		}
		if i > 0 {
			libs, raws, ratios = append(libs, rates[0]), append(raws, rates[1]), append(ratios, rates[0]/rates[1])
		}
	}
	return result{c, quantile(libs, .5), quantile(raws, .5), quantile(ratios, .5), quantile(ratios, .25), quantile(ratios, .75)}, nil
}

func quantile(values []float64, q float64) float64 {
	slices.Sort(values)
	at := q * float64(len(values)-1)
	i := int(at)
	if i+1 == len(values) {
		return values[i]
	}
	return values[i] + (at-float64(i))*(values[i+1]-values[i])
}

// repeated is a side that does fn again and again.
func repeated(fn func(context.Context) error) side {
	return func(ctx context.Context, d time.Duration) (int, time.Duration, error) {
		began := time.Now()
		n := 0
		for ; time.Since(began) < d; n++ {
			if err := fn(ctx); err != nil {
				return n, 0, err
			}
		}
		return n, time.Since(began), nil
	}
}

// once is a side that does fn, which returns how many units it has done, one time.
func once(fn func(context.Context) (int, error)) side {
	return func(ctx context.Context, _ time.Duration) (int, time.Duration, error) {
		began := time.Now()
		n, err := fn(ctx)
		return n, time.Since(began), err
	}
}

// together runs n of fn at once and returns the first error.
func together(n int, fn func() error) error {
	var wg sync.WaitGroup
	errs := make(chan error, n)
	for range n {
		wg.Go(func() { errs <- fn() })
	}
	wg.Wait()
	for range n {
		if err := <-errs; err != nil {
			return err
		}
	}
	return nil
}
