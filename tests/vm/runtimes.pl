#!/usr/bin/perl
# The Perl half of runtimes.py: counts up over one TCP connection for ever and over a new one now and then; an
# alarm each second; a floating point computation done twice; the monotonic clock. Modules: none.
use strict;
use warnings;

my ($alarms, $errors, $x, $latest, $n, $seen, $random) = (0, 0, 0.3, 0, 0, 0, '');
$SIG{ALRM} = sub { $alarms++; alarm 1 };
$SIG{PIPE} = 'IGNORE';

sub monotonic {
    my $t = "\0" x 16;
    syscall(228, 1, $t);    # clock_gettime, CLOCK_MONOTONIC
    my ($s, $ns) = unpack 'q2', $t;
    return $s + $ns / 1e9;
}

sub first_line {
    open my $f, '<', $_[0] or return '';
    my $line = <$f> // '';
    chomp $line;
    return $line;
}

sub draw {
    open my $f, '<:raw', '/dev/urandom' or die "urandom: $!";
    sysread $f, my $bytes, 16;
    return unpack 'H*', $bytes;
}

sub chaos {
    my $y = shift;
    $y = 3.8 * $y * (1 - $y) for 1 .. 500;
    return $y;
}

sub dial {
    socket my $s, 2, 1, 0 or die "socket: $!";    # AF_INET, SOCK_STREAM
    until (connect $s, pack 'S n C4 x8', 2, 7000, 127, 0, 0, 1) { select undef, undef, undef, 0.2 }
    select((select($s), $| = 1)[0]);
    return $s;
}

# An alarm may interrupt a read: <> goes on by itself.
sub exchange {
    my ($s, $line) = @_;
    print {$s} "$line\n" or return '';
    my $answer = <$s> // '';
    chomp $answer;
    return $answer;
}

alarm 1;
my $s = dial();
while (1) {
    my $generation = first_line('/run/generation') || 1;
    ($seen, $random) = ($generation, draw()) if $generation != $seen;
    my ($a, $b) = (chaos($x), chaos($x));
    $errors++ if $a != $b;
    $x = $a;
    my $now = monotonic();
    $errors++ if $now < $latest;
    $latest = $now;
    my $state = qq({"alarms": $alarms, "errors": $errors, "generation": $seen, "random": "$random"});
    $errors++ if exchange($s, "$n $state") ne $n + 1;
    $n++;
    $errors++ if exchange(dial(), "$n once") ne $n;
    select undef, undef, undef, 0.1;
}
